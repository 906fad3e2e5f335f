"""Where the branches' own money is: cash desks, card terminals, acquiring and bank accounts; shifts of cash desks."""
