"""Speech to discrete units (`extract`), and learning a unit language from them (`language`)."""
