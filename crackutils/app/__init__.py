"""A page in the browser: photos in, cracks looked at and corrected, a report out."""
