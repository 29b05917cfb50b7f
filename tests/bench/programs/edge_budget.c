/* The first process of an emulated Pi Zero: how long a call takes that makes a GPIO an input, and how
   long one that also asks for its edges, as drivers/dht_edges.py does when it releases a DHT's line.
   Prints nanoseconds of the machine's own time: median, 99th percentile, most. */

#include <errno.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 200

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int by_size(const void *one, const void *other)
{
    long long a = *(const long long *)one, b = *(const long long *)other;
    return (a > b) - (a < b);
}

static int line;

static void configure(unsigned long long flags)
{
    struct gpio_v2_line_config config = {.flags = flags};
    if (ioctl(line, GPIO_V2_LINE_SET_CONFIG_IOCTL, &config)) {
        printf("SET_CONFIG %llx: %s\n", flags, strerror(errno));
        exit(1);
    }
}

static void measure(const char *what, unsigned long long flags)
{
    static long long took[ROUNDS];
    struct timespec low = {0, 1100000};
    for (int round = 0; round < ROUNDS; round++) {
        configure(GPIO_V2_LINE_FLAG_OUTPUT);
        nanosleep(&low, NULL);
        long long before = now_ns();
        configure(flags);
        took[round] = now_ns() - before;
    }
    qsort(took, ROUNDS, sizeof *took, by_size);
    printf("TOOK %s %lld %lld %lld\n", what, took[ROUNDS / 2], took[ROUNDS * 99 / 100],
           took[ROUNDS - 1]);
}

int main(void)
{
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    int console = open("/dev/ttyAMA0", O_RDWR);
    dup2(console, 1);
    setvbuf(stdout, NULL, _IONBF, 0);
    int chip = open("/dev/gpiochip0", O_RDWR);
    struct gpiochip_info info = {0};
    if (chip < 0 || ioctl(chip, GPIO_GET_CHIPINFO_IOCTL, &info))
        printf("chip: %s\n", strerror(errno));
    printf("CHIP %s\n", info.label);
    struct gpio_v2_line_request request = {.offsets = {4}, .num_lines = 1, .event_buffer_size = 128};
    strcpy(request.consumer, "edges");
    request.config.flags = GPIO_V2_LINE_FLAG_OUTPUT;
    if (ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &request))
        printf("request: %s\n", strerror(errno));
    line = request.fd;
    unsigned long long input = GPIO_V2_LINE_FLAG_INPUT | GPIO_V2_LINE_FLAG_BIAS_PULL_UP;
    measure("input", input);
    measure("edges", input | GPIO_V2_LINE_FLAG_EDGE_FALLING);
    printf("GUEST ENDED\n");
    for (;;) /* a first process that ends is a panic */
        pause();
}
