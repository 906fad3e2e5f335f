"""Groups, lessons, who comes to them, and what is written off for it; the waiting list and trial lessons."""
