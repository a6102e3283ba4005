"""The version of bintally: stated here once, read by the build, the command and the check of a bundle's minimum."""

VERSION = "0.1.0"
