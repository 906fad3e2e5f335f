"""«Мои дела»: planned calls, corrections of the schedule, anything else that somebody is to do by a day."""
