"""NorMuon: Making Muon More Efficient and Scalable (2025)."""
