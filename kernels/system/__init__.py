"""Care with the system: files written whole, paths, forks, and blocks that Ctrl-C cannot leave half done."""
