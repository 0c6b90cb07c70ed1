"""The NBD face: presents an array as an ordinary disk to qemu, the Linux kernel, nbdcopy, fio and the rest."""
