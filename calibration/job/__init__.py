"""Recalibration on a robot, from collected visits to an activated bundle, or to none."""
