"""The study of mode collapse: its plan and rules, its own games, its jobs, tables and figures; study.py runs it."""
