"""What a run says of itself: report.json, report.html, the screen."""
