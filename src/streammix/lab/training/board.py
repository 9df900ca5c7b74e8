"""TensorBoard event files, written on the spot.

torch's SummaryWriter hands events to a thread of its own: they are lost when the process is killed, and a full disk
ends in that thread's traceback. Here each event is one unbuffered write.
"""

import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from streammix.lab.files import naming


class Board:
    """Appends scalars to a new event file in `folder`; viewers then drop what older files say from `first` on."""

    def __init__(self, folder: Path, first: int) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}.{os.getpid()}"
        self.file = open(self.path, "wb", buffering=0)  # noqa: SIM115 (closed by close)
        self.records = RecordWriter(self.file)
        self.write(Event(file_version="brain.Event:2"))
        self.write(Event(step=first, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, tag: str, value: float) -> None:
        self.write(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))

    def write(self, event: Event) -> None:
        event.wall_time = time.time()
        with naming(self.path):
            self.records.write(event.SerializeToString())

    def close(self) -> None:
        self.file.close()
