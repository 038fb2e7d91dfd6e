"""What a job folder remembers of its stages: seconds, summary, and whether others had done them.

A stage that is complete tells of the run that finished it; only the job knows whether that run
was its own, after it was stopped and taken up again, and so the report asks here.
"""

from pathlib import Path
from typing import Any

from distillery.files import read_json, write_json
from generator.stage import Finished

NOTES = "stages.json"


def read_notes(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the notes of a job's complete stages by name, `{}` for a new job."""
    path = folder / NOTES
    return read_json(path) if path.exists() else {}


def note_stage(folder: Path, finished: Finished) -> dict[str, Any]:
    """Note a complete stage and return the note; the first one of the same work stays.

    The caller holds the job's lock.
    """
    notes = read_notes(folder)
    note = notes.get(finished.name)
    if note is None or note["key"] != finished.record["key"]:
        note = notes[finished.name] = {
            "name": finished.name,
            "key": finished.record["key"],
            "seconds": finished.record["seconds"],
            "cached": finished.was_cached,
            "summary": finished.record["summary"],
        }
        write_json(folder / NOTES, notes)
    return note
