"""What several rooms need and none owns: checks of names, and the texts that Go writes."""
