"""placeholder"""

from pathlib import Path

from gencompress.domains.sam.export import export_sam


def publish(student, teacher, plan, measured, config, out: Path) -> None:
    export_sam(student.model, plan, out, processor=teacher.processor)
