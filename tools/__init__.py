"""What the project needs beside itself: the demo, the benchmarks, a board on loopback."""
