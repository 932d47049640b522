# What somebody makes who knows AWS: a network of their own, machines in it, and disks. Nothing in it is for nimbo.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.0"
    }
  }
}

provider "aws" {
  default_tags {
    tags = { Project = "shop" }
  }
}

# What a change in place changes.
variable "stage" {
  type    = string
  default = "test"
}

variable "instance_type" {
  type    = string
  default = "t3.micro"
}

variable "data_gib" {
  type    = number
  default = 8
}

variable "ports" {
  type    = list(number)
  default = [80, 443]
}

variable "public_key" {
  type = string
}

locals {
  zones = slice(data.aws_availability_zones.up.names, 0, 2)
}
