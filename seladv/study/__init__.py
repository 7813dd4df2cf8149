"""What is asked for: params.yaml and its checks, arms' names, places of files, digests of code. Imports no torch."""
