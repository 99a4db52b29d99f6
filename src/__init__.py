"""Mobile-VLA: train, evaluate and compare vision-language-action policies for mobile robots."""
