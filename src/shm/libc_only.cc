// Empty: bh_shm_libc_only links all of bh_shm with libc alone, and the link is the test.
