"""What those who run a database do with it: deployment, backups, health, pauses, fences."""
