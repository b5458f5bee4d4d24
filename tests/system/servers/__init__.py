"""Real servers for the tests, one module each: started on free ports in folders of their own."""
