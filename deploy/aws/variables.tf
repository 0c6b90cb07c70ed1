variable "name" {
  description = "What everything made here is called."
  type        = string
  default     = "perdure"
}

variable "seats" {
  description = "One disk each, on an instance of its own: its subnet, which says the zone, and the address that every instance of this seat has in turn."
  type = map(object({
    subnet_id  = string
    private_ip = string
  }))

  validation {
    condition     = length(var.seats) >= 3 && length(distinct([for seat in var.seats : seat.private_ip])) == length(var.seats)
    error_message = "An array has three disks or more, each with an address of its own."
  }
}

variable "threshold" {
  description = "k of the array: how many disks must be there. More than half of them."
  type        = number

  validation {
    condition     = var.threshold * 2 > length(var.seats) && var.threshold < length(var.seats)
    error_message = "k must be more than half of n, and less than n."
  }
}

variable "main_security_group_id" {
  description = "The security group of the main program's machine. Nobody else reaches a disk."
  type        = string
}

variable "vpc_id" {
  description = "Where the subnets are. It needs a gateway endpoint for S3: the instances have no other way out."
  type        = string
}

variable "s3_prefix_list_id" {
  description = "The prefix list of that gateway endpoint (com.amazonaws.REGION.s3). Amazon Linux's packages are in S3 too."
  type        = string
}

variable "ami_id" {
  description = "Amazon Linux 2023, x86-64. Pinned by you; a newer one is for instances that are yet to come."
  type        = string
}

variable "instance_type" {
  description = "A type with enclaves and at least 4 processors: two go to the enclave."
  type        = string
  default     = "r6i.xlarge"
}

variable "enclave" {
  description = "What the enclave gets. Memory is set aside in huge pages when the machine boots."
  type = object({
    cpu_count  = optional(number, 2)
    memory_mib = number
  })
}

variable "files" {
  description = "Where the instances find the disk's image and what runs beside it (`bundle` makes that), and what each must be."
  type = object({
    bucket        = string
    eif_key       = string
    eif_sha256    = string
    eif_pcr0      = string
    bundle_key    = string
    bundle_sha256 = string
  })

  validation {
    condition = alltrue([
      can(regex("^[0-9a-f]{64}$", var.files.eif_sha256)),
      can(regex("^[0-9a-f]{64}$", var.files.bundle_sha256)),
      can(regex("^[0-9a-f]{96}$", var.files.eif_pcr0)) && can(regex("[^0]", var.files.eif_pcr0)),
    ])
    error_message = "SHA-256 are 64 hexadecimal digits in lower case, a PCR0 is 96, and zeros are debug mode."
  }
}
