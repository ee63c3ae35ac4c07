"""`upkeep demo`: the main job on real machines, watched from outside."""
