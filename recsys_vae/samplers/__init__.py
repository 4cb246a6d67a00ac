"""Drawing from any log-density: direct, weighted and Markov-chain samplers. PyTorch only; knows no recommender."""
