"""What cloud and robot agree on: the bundle, its verification, the preprocessing, the engines and the Counter."""
