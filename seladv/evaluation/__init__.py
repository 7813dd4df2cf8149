"""Whether a trained network is robust, and whether the measured number can be trusted."""
