"""The service on the robot: a bundle and a camera in, counts out, none of them lost."""
