"""Files of scenes and cameras: bounded readers, atomic writers, one convention in memory."""
