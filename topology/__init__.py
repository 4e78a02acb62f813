"""Who may talk to whom: graphs and peers. Pure; knows nothing of sockets or GANs."""
