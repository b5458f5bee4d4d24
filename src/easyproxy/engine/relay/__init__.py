"""The relay engine: user space, one epoll loop per worker, standard library only."""
