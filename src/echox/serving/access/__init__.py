"""Who may connect and with how much: keys, origins, places, connections, ports and log limits."""
