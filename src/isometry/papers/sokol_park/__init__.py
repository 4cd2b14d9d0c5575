"""Information Geometry of Orthogonal Initializations and Training (Sokół and Park, ICLR 2020)."""
