"""The agent's settings: one frozen tree, every number bounded, every unknown key refused.

Secrets never stand in this tree, only the names of files that hold them; the one exception is the address of a network
camera, which leaves the agent through `edge_agent.masking` alone. `edge_agent.config_file` reads the tree from TOML and
words the errors.
"""

from __future__ import annotations

import string
from pathlib import Path  # noqa: TC003 - pydantic evaluates the annotations
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""One level of an MQTT topic and one folder of an object key: nothing that either would interpret."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]

BIN_ID_FIELDS = ("stem", "camera", "visit", "marker")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RobotSection(_Section):
    """Who this robot is; both names are levels of every topic."""

    site: Name
    id: Name


class BundleSection(_Section):
    """What counts. `path` is a bundle's folder, or a store whose active bundle is used."""

    path: Path
    engine: str = "auto"
    threads: int | None = Field(default=None, ge=1, le=64)
    """Threads of the engine; None leaves one core to capture and delivery."""


class VisitSection(_Section):
    """When a camera looks at a bin, and how many frames make its count."""

    trigger: Literal["photo", "interval", "settle", "marker"] | None = None
    """None: every photo of a folder is a visit, anything else is visited by interval."""
    interval_s: float = Field(default=5.0, ge=0.05, le=86_400)
    frames: int = Field(default=3, ge=1, le=32)
    moving_above: float = Field(default=6.0, gt=0, le=255)
    """Mean grey-level change between frames that means the robot moves."""
    still_below: float = Field(default=2.5, gt=0, le=255)
    still_frames: int = Field(default=3, ge=1, le=100)
    marker_gone_s: float = Field(default=10.0, ge=0, le=86_400)
    """A label that was out of sight for so long opens a visit again when it comes back."""
    rescans_per_hour: int = Field(default=12, ge=0, le=3600)
    """So often a live camera may ask for another look at a bin that it is unsure of; for one bin once an hour."""


class GateSection(_Section):
    """Which frames are not worth counting. A folder's photos are flagged, never refused."""

    min_brightness: float = Field(default=12.0, ge=0, le=255)
    max_brightness: float = Field(default=245.0, ge=0, le=255)
    min_sharpness: float = Field(default=3.0, ge=0, le=1e6)
    """Variance of the Laplacian of the green channel at the network's size."""
    frozen_s: float = Field(default=5.0, ge=0, le=3600)
    """A live camera that repeats one picture for this long is restarted; 0 switches it off."""
    max_flat_tail: float = Field(default=0.04, gt=0, le=1)
    """A live picture whose lower rows all repeat over more than this share of its height was cut off on its way."""
    blind_s: float = Field(default=5.0, gt=0, le=3600)
    """A live camera whose pictures are dark, bright or torn for this long is said to be blind."""


class CameraSection(_Section):
    """One source of frames."""

    name: Name = "camera"
    source: int | str
    """A folder of photos, a video file, a camera index, a device such as /dev/v4l/by-id/..., or an address: rtsp://host/x,
    csi://0, gst://PIPELINE, snapshot+http://host/x.jpg."""
    bin_id: str | None = Field(default=None, min_length=1, max_length=255)
    """Template of `{stem}` (of the file), `{camera}`, `{visit}`, `{marker}`; None is `{stem}` for folders, `{marker}`
    for visits by marker, else `{camera}`."""
    repeat: bool = False
    """Start a folder or a video again when it ends."""
    pause_s: float = Field(default=0.0, ge=0, le=3600)
    """Wait between photos of a folder, so that it plays like a camera that passes bins."""
    width: int | None = Field(default=None, ge=16, le=16_384)
    height: int | None = Field(default=None, ge=16, le=16_384)
    fps: float | None = Field(default=None, gt=0, le=1000)
    look_fps: float = Field(default=10.0, gt=0, le=1000)
    """A live camera is looked at so often in a second, at most: what lies between costs no decoding."""
    max_pixels: int = Field(default=40_000_000, ge=4096, le=200_000_000)
    marker: Literal["qr", "aruco"] | None = None
    """What is printed on the bins; its text is `{marker}` in `bin_id`."""
    marker_dictionary: str = Field(default="4X4_50", pattern=r"^[A-Za-z0-9_]{1,40}$")
    """Of ArUco markers, as OpenCV names it without DICT_."""
    region: tuple[tuple[Share, Share], ...] | None = Field(default=None, min_length=3, max_length=32)
    """Corners of the bin in the picture, x and y as shares of width and height, for `uploads.blur_outside`. With a
    profile, of the rectified picture."""
    profile: Path | None = None
    """What `bintally calibrate camera` wrote and somebody signed off: the lens, and where the bin is."""
    moved_check_s: float = Field(default=10.0, ge=0, le=86_400)
    """At least so long between two looks at whether the camera still stands where its profile was made."""
    open_timeout_s: float = Field(default=30.0, ge=0.5, le=600)
    max_memory_bytes: int = Field(default=1 << 30, ge=64 << 20, le=1 << 40)
    """A capture process that holds more for itself is started anew; decoding may take 15 bytes a pixel."""
    stall_s: float = Field(default=8.0, ge=0.2, le=600)
    restart_max_s: float = Field(default=60.0, ge=0.05, le=3600)
    visit: VisitSection = VisitSection()
    gate: GateSection = GateSection()

    @model_validator(mode="after")
    def _has_marker(self) -> CameraSection:
        if self.visit.trigger == "marker" and self.marker is None:
            raise ValueError('visit.trigger = "marker" needs marker = "qr" or "aruco"')
        return self

    @field_validator("bin_id")
    @classmethod
    def _known_fields(cls, value: str | None) -> str | None:
        for _, field, _, _ in string.Formatter().parse(value or ""):
            if field is not None and field not in BIN_ID_FIELDS:
                raise ValueError(f"unknown field {{{field}}}, known are {', '.join(BIN_ID_FIELDS)}")
        return value


class TlsSection(_Section):
    """Encryption to the broker. Certificate and key are read again at every connect: rotation needs no restart."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def _pair(self) -> TlsSection:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        return self


class MqttSection(_Section):
    """The broker."""

    host: str = Field(default="127.0.0.1", min_length=1, max_length=255)
    port: int = Field(default=1883, ge=1, le=65_535)
    """With `tls`, 8883 unless one is given."""
    username: str | None = Field(default=None, max_length=255)
    password_file: Path | None = None
    tls: TlsSection | None = None
    keepalive_s: int = Field(default=30, ge=5, le=3600)
    window: int = Field(default=20, ge=1, le=20)
    """Messages in flight at most; a broker's ReceiveMaximum lowers it further."""
    ack_timeout_s: float = Field(default=30.0, ge=1, le=600)
    reconnect_max_s: float = Field(default=60.0, ge=0.1, le=3600)
    historical_after_s: float = Field(default=30.0, ge=1, le=86_400)
    """A count that waited longer than this is published with is_historical true."""
    home_assistant: Name | None = None
    """Home Assistant's discovery prefix, usually "homeassistant"; None announces nothing."""

    @model_validator(mode="before")
    @classmethod
    def _usual_port(cls, given: Any) -> Any:  # noqa: ANN401 - whatever stands in the file
        return {"port": 8883, **given} if isinstance(given, dict) and given.get("tls") is not None else given


class QuotaSection(_Section):
    """How much may be uploaded, so that a bad bundle cannot eat a site's network."""

    images_per_hour: int = Field(default=10_000, ge=0, le=1_000_000)
    images_per_day: int = Field(default=50_000, ge=0, le=10_000_000)
    bytes_per_day: int = Field(default=10 << 30, ge=0, le=1 << 50)
    images_per_bin_per_day: int | None = Field(default=None, ge=0, le=1_000_000)
    """None: no bound of its own, because without a template in `bin_id` a camera's visits are all of one bin."""


class UploadsSection(_Section):
    """Which images leave the robot, and, without an object store, the folder they go to."""

    folder: Path | None = None
    audit_share: float = Field(default=0.01, ge=0, le=1)
    """Share of confident visits whose image is uploaded too, to measure the true error rate without bias."""
    jpeg_quality: int = Field(default=92, ge=30, le=100)
    blur_outside: bool = False
    """Make everything outside `cameras.region` unreadable before a picture leaves the robot."""
    quota: QuotaSection = QuotaSection()


class IotSection(_Section):
    """Keys for the object store from AWS IoT, against the robot's certificate."""

    endpoint: str = Field(pattern=r"^[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?$")
    """Of the account: `aws iot describe-endpoint --endpoint-type iot:CredentialProvider`."""
    role_alias: str = Field(pattern=r"^[A-Za-z0-9_=,@-]{1,128}$")
    thing: str | None = Field(default=None, pattern=r"^[A-Za-z0-9:_-]{1,128}$")
    """None is robot.id."""
    ca_file: Path | None = None
    cert_file: Path
    key_file: Path


class S3Section(_Section):
    """An object store. Credentials come from `iot`, from `credentials_file`, or from where boto3 looks."""

    bucket: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.\-_]{1,62}$")
    prefix: str = Field(default="bintally", max_length=512, pattern=r"^[A-Za-z0-9!_.*'()/-]*$")
    endpoint_url: str | None = Field(default=None, pattern=r"^https?://[^@]+$")
    region: str = Field(default="us-east-1", pattern=r"^[a-z0-9-]{1,32}$")
    credentials_file: Path | None = None
    """A file in the format of ~/.aws/credentials."""
    profile: str | None = Field(default=None, max_length=64)
    iot: IotSection | None = None
    connect_timeout_s: float = Field(default=5.0, ge=0.1, le=120)
    read_timeout_s: float = Field(default=20.0, ge=0.1, le=200)
    """For a whole answer, from the last piece of the object that was sent."""
    retry_max_s: float = Field(default=60.0, ge=0.1, le=3600)

    @model_validator(mode="after")
    def _one_origin(self) -> S3Section:
        if self.iot is not None and (self.credentials_file is not None or self.profile is not None):
            raise ValueError("keys come from [s3.iot] or from credentials_file and profile: remove one of them")
        return self


class StateSection(_Section):
    """What survives a power cut, and how large it may grow."""

    path: Path
    max_bytes: int = Field(default=1 << 30, ge=16 << 20, le=1 << 44)
    """Messages and images together. The oldest image goes before any count."""
    max_age_s: float = Field(default=30 * 86_400, ge=60, le=10 * 365 * 86_400)
    """Agent running time, not wall-clock time, after which an undelivered item is dropped."""


class TelemetrySection(_Section):
    """How often the robot reports on itself."""

    interval_s: float = Field(default=10.0, ge=0.2, le=3600)
    prometheus_port: int | None = Field(default=None, ge=1, le=65_535)
    """Serves /metrics on the loopback; None serves nothing."""


class RecordsSection(_Section):
    """What the inventory system expects: a CSV file with the columns bin_id and record."""

    file: Path


class StopSection(_Section):
    """How long the end of a run may take."""

    drain_timeout_s: float = Field(default=60.0, ge=0, le=86_400)
    """After a source that ends: how long to wait until everything is delivered."""
    stop_timeout_s: float = Field(default=8.0, ge=0, le=600)
    """After SIGTERM: how long to go on delivering. What remains stays in the outbox."""


class LogSection(_Section):
    """What goes to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    json_lines: bool = False


class CommandsSection(_Section):
    """What operators may do with commands."""

    bundle_sources: tuple[str, ...] = ()
    """Where cmd/deploy may fetch bundles from, each with everything below it: a folder, s3://bucket/prefix, https://host/path."""
    max_bundle_bytes: int = Field(default=1 << 30, ge=1 << 20, le=1 << 36)


class AgentConfig(_Section):
    """The whole tree."""

    robot: RobotSection
    bundle: BundleSection
    cameras: tuple[CameraSection, ...] = Field(min_length=1, max_length=8)
    state: StateSection
    mqtt: MqttSection = MqttSection()
    s3: S3Section | None = None
    uploads: UploadsSection = UploadsSection()
    records: RecordsSection | None = None
    telemetry: TelemetrySection = TelemetrySection()
    stop: StopSection = StopSection()
    commands: CommandsSection = CommandsSection()
    log: LogSection = LogSection()

    @model_validator(mode="after")
    def _consistent(self) -> AgentConfig:
        if len({camera.name for camera in self.cameras}) < len(self.cameras):
            raise ValueError(f"camera names must differ, got {', '.join(camera.name for camera in self.cameras)}")
        if self.mqtt.home_assistant is not None and "." in self.robot.site + self.robot.id:
            raise ValueError("Home Assistant takes no dot in robot.site and robot.id")
        if self.uploads.blur_outside and any(camera.region is None for camera in self.cameras):
            raise ValueError("uploads.blur_outside needs cameras.region for every camera")
        if self.s3 is not None and self.uploads.folder is not None:
            raise ValueError("images go to [s3] or to uploads.folder, not to both: remove one of them")
        return self
