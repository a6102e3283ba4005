"""Why a command was refused or failed: every code that a result may carry, each with a sentence for people.

`docs/mqtt.md` lists them in these words; a test holds the two together.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """A fixed code and its meaning. The words of a result add what was found this time."""

    # Refused before anything was done or remembered.
    RETAINED = "retained", "The command was published with the retain flag, so it would come back for ever."
    TOO_LARGE = "too_large", "The payload is larger than 48 KiB."
    TOO_DEEP = "too_deep", "The payload is nested deeper than 8 levels."
    NOT_JSON = "not_json", "The payload is not one JSON object in UTF-8 with different keys and finite numbers."
    UNKNOWN_COMMAND = "unknown_command", "The robot knows no command of this name."
    INVALID = "invalid", "A field is missing, unknown, null, of the wrong type or out of its bounds."
    EXPIRED = "expired", "The command expired before it could be begun, by the robot's clock."
    FUTURE = "future", "The command was issued in the future, by the robot's clock."
    RECORD_LOST = (
        "record_lost",
        "The robot lost its record of commands; one issued before that may have been done already.",
    )
    RATE_LIMITED = "rate_limited", "Commands come faster than the robot takes them; send this one again later."
    MEMORY_FULL = "memory_full", "The robot remembers as many unexpired commands as it can; use shorter lifetimes."
    # Refused or failed after it was accepted: this is its one final answer.
    BUSY = "busy", "Another command that changes the bundle is running."
    UNKNOWN_CAMERA = "unknown_camera", "The robot has no camera of this name."
    TOO_MANY_VISITS = "too_many_visits", "Too many requested visits wait for their camera already."
    THRESHOLD_TOO_LOW = (
        "threshold_too_low",
        "The threshold lies below the bundle's calibrated one, which would break its promise.",
    )
    NO_STORE = "no_store", "bundle.path of the robot is a plain folder, not a store of bundles."
    SOURCE_NOT_ALLOWED = "source_not_allowed", "The source is not below one of commands.bundle_sources of the robot."
    OLDER_BUNDLE = "older_bundle", "The bundle was made before the active one; allow_older permits that."
    NO_PREVIOUS = "no_previous", "There is no previous bundle to go back to."
    NO_TARGET = "no_target", "The robot has nowhere to upload images to."
    NOT_INSTALLED = "not_installed", "The robot's installation lacks what the command needs."
    DOWNLOAD_FAILED = "download_failed", "The bundle could not be fetched."
    BUNDLE_REFUSED = "bundle_refused", "The bundle does not verify, or this robot cannot run it; the old one counts on."
    NO_VISIT = "no_visit", "The camera gave no frame for the visit in time."
    NO_USABLE_FRAME = "no_usable_frame", "No frame of the visit could be counted."
    NO_FRAME = "no_frame", "The camera gave no frame in time."
    NOT_BETTER = "not_better", "The recalibration was refused or taken back; the old bundle counts on."
    CAMERA_MOVED = (
        "camera_moved",
        "A camera does not stand where its profile was made: numbers fitted to what it sees now would be wrong.",
    )
    JOB_FAILED = "job_failed", "The recalibration job ended without a result."
    DISK = "disk", "The robot's disk refused."
    INTERRUPTED = "interrupted", "The agent was stopped or killed in the middle; what was done is said in words."
    INTERNAL = "internal", "The robot failed in an unforeseen way; its log tells more."

    def __init__(self, code: str, sentence: str) -> None:
        self.code = code
        self.sentence = sentence


class CommandError(Exception):
    """A command ends here.

    Args:
        reason: The code.
        words: What was found, one sentence; empty says no more than the reason.
        state: "refused" when nothing was begun, "failed" when it was.
    """

    def __init__(self, reason: Reason, words: str = "", *, state: str = "refused") -> None:
        super().__init__(words or reason.sentence)
        self.reason = reason
        self.words = words or reason.sentence
        self.state = state
