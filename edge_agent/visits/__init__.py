"""From frames to one honest count per visit."""
