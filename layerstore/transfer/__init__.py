"""Work between stores and directories: taking in, giving out, comparing, checking."""
