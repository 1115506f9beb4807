"""ComSem: latents named and scored by a language model that judges, itself put to the test (paper, section 5.1)."""
