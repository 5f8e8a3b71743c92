"""Reports, explanations and exports of a trained model."""
