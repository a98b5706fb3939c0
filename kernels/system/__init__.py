"""What a careful program asks of the system: whole files, paths, forks, blocks that Ctrl-C cannot leave half done."""
