"""Models in Hugging Face style; importing a modeling file registers its classes with transformers' AutoClasses."""
