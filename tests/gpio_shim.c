/* What a kernel answers of a Pi's GPIO chip, for a program that asks through libgpiod: loaded with
   LD_PRELOAD. Line 17 is held by "lirc"; what is not asked of a GPIO chip goes to the kernel. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/gpio.h>
#include <stdarg.h>
#include <string.h>

int ioctl(int descriptor, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);

    unsigned int command = request; /* some callers extend its sign */
    if (command == (unsigned int)GPIO_GET_CHIPINFO_IOCTL) {
        struct gpiochip_info *chip = argument;
        memset(chip, 0, sizeof *chip);
        strcpy(chip->name, "gpiochip0");
        strcpy(chip->label, "pinctrl-bcm2711");
        chip->lines = 58;
        return 0;
    }
    if (command == (unsigned int)GPIO_V2_GET_LINEINFO_IOCTL) {
        struct gpio_v2_line_info *line = argument;
        line->flags = GPIO_V2_LINE_FLAG_INPUT;
        if (line->offset == 17) {
            strcpy(line->consumer, "lirc");
            line->flags |= GPIO_V2_LINE_FLAG_USED;
        }
        return 0;
    }
    int (*next)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
    return next(descriptor, request, argument);
}
