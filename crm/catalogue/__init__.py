"""What lessons are made of: subjects, lesson types with the price of a single visit, rooms, days a branch is closed."""
