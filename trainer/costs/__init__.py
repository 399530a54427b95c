"""What training a family costs, one family a file: parameters, FLOPs, and the most bytes a step keeps alive."""
