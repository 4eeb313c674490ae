"""What training and inference need of memory, estimated before anything is downloaded."""
