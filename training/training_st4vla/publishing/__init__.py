"""Publishing folders on the Hugging Face Hub: what goes up (`contents`), may it (`checks`), and how (`upload`)."""
