"""State on disk: generations, recovery, anchors of the audit trail, what bits depend on."""
