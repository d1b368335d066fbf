"""What every stage needs: strict configs, stage folders, the run's place in the world, and the console."""
