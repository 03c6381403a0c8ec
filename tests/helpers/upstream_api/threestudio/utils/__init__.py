"""What extensions import from `threestudio.utils`."""
