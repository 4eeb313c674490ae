"""Stages that teach a model to hear, and to tell when somebody has finished or interrupts."""
