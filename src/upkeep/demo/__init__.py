"""`upkeep demo`: the main job on machines of this host, watched from outside."""
