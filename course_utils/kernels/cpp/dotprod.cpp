// The products of neon.cpp for ARM processors with `sdot`, which adds four products of bytes at once.
#define DOTPROD
#include "neon.cpp"
