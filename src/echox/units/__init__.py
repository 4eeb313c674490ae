"""Speech to discrete units (`extract`) and units to unit words (`language`)."""
